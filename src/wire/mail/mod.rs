//! Mail: addresses, headers, dates.
