"""Output of a run for people: dashboards, report, model card and terminal."""
