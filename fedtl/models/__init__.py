"""Models as a body and a head, from fedtl itself, timm or torchvision; and weights for them."""
