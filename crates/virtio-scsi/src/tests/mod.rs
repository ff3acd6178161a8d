//! Behaviour of the device, seen from the driver.
