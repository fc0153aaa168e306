"""Two ways to read a recording, with the same result: PyAV in this process, or an ffmpeg process."""
