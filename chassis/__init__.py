"""The run-time library that every service stands on: a contract goes in, an enforcing server comes out."""
