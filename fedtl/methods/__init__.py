"""What does a method share, minimise, keep and do at the end? One file a method or loss."""
