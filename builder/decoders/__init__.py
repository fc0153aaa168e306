"""Two interchangeable decoders of recordings: PyAV in this process, or an ffmpeg process."""
