"""Two ways to read a recording, with one result: PyAV in this process, or an ffmpeg process."""
