"""Settings of small PAX-Ray runs."""

PAXRAY = (
    "data.load_size=64",
    "data.crop_size=56",
    "data.threads=2",
    "model.width=4",
    "trainer.validate_every=100",
    "trainer.checkpoint_every=100",
    "trainer.pictures_every=0",
    "trainer.log_every=1",
)
