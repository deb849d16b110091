"""Other evaluators on the same task. Each module is a program that prints one line of JSON."""
