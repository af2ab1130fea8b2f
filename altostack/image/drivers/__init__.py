"""Where image bits are kept."""
