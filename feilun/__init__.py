"""feilun: the wheel from users' data to a model that answers, earns and learns."""
