"""Projects: work that some people do together, and who takes part."""
