"""A second machine: code, data and adapters sent there, jobs run there, what they made fetched from there."""
