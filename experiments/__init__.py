"""What is run: the only place where tasks and data meet. One command a file, one experiment a YAML."""
