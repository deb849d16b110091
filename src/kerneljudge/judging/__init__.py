"""The judge: makes inputs, hands them out, compares, and writes the verdict. Runs no kernel."""
