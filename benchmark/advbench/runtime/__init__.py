"""The room where torch lives: networks, data on the device, training, threat models, the life of a cell."""
