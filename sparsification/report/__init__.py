"""What does a run look like: on dashboards, in a report, on a model card, in a terminal?"""
