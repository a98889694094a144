"""Components: what plugins provide, how they are registered and how they are found."""
