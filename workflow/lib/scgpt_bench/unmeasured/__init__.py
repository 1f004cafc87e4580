"""What is made of predictions that nothing was measured for."""
