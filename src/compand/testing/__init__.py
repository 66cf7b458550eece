"""Laws any stage must obey, and mutants of files: shipped for authors of plug-ins."""
