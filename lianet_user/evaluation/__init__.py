"""How good a head is: against labels, beside other models, and with more labels."""
