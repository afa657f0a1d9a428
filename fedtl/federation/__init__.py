"""The server's side: which silos get a task, and how their updates are combined. Never sees data or training."""
