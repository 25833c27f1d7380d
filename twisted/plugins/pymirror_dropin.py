from twisted.application.service import ServiceMaker

primary = ServiceMaker(
    "pymirror primary",
    "primary.tap",
    "The pymirror primary: owns the index state and the change log",
    "pymirror-primary",
)
replica = ServiceMaker(
    "pymirror replica",
    "replica.tap",
    "A pymirror replica: follows a primary and serves its clients near them",
    "pymirror-replica",
)
