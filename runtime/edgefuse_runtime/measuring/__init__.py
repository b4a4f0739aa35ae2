"""What training costs on the machine at hand."""
