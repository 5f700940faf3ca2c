"""What asks and looks: everything here speaks to a server or to this machine."""
