"""What everything else stands on: errors and whose fault they are, settings, places that may carry secrets, needs."""
