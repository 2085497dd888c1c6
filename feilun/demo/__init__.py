"""One whole turn of the wheel on real data, by the commands and the HTTP API that a user has."""
