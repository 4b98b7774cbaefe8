"""What the sub-app says of itself, to programs and to people. Nothing here touches a run."""
