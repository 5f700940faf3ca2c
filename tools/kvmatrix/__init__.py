"""kvmatrix: a matrix file in, make rules out; make is the scheduler."""
