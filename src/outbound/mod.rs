//! The delivering half: dispatch, destinations, connections, transfers, bounces.
//!
//! Its place is kept; what the queue holds waits here until delivery is built.
