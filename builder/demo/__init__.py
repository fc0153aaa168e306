"""The demo corpus: talking faces made on the spot, offline, from one public-domain photograph and a voice model.

`plan` says who says what and draws everything that varies, `cast` holds the speakers, `face` renders pictures,
`voice` renders sounds, `corpus` writes the clips.
"""
