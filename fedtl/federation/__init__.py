"""Who is asked, and how are the answers combined? Never sees data or training."""
