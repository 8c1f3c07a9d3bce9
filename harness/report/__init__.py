"""Results → table → text, Markdown, JSON, JUnit.

Law of the room: values in, text out. Nothing here opens a file, asks a clock or knows
an engine; whoever calls hands in records and prints what comes back.
"""
