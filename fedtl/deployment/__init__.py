"""The processes of a site and of the coordinator, over Flower."""
