"""Every other method, and the form that all predictions share."""
