"""What a run showed, as files: written, read, joined, made safe to share."""
