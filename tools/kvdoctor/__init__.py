"""kvdoctor: why are there no hits?"""
