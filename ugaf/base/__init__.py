"""What everything else stands on: errors and whose fault they are, places that may carry secrets, YAML, needs."""
