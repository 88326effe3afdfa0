//! Kernel and pipeline under a seeded clock, disk, network and cancellation: the tests are in `tests/seeds`.
