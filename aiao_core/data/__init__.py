"""An owner's images and captions, as the method trains on them."""
