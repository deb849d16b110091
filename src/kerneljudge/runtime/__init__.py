"""Processes and what passes between them: channel, messages, memory, sandbox, zygote, runner."""
