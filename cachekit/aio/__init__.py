"""The asyncio shell: it carries the bytes and drives the flows of the core for tasks of an event loop."""
