//! Delivery: from accepted mail to an answer for each recipient.
//!
//! ```text
//! fair          which job of a destination goes next
//! limits        rates of destinations, sources and tenants, in one process and over restarts
//! tokens        what other shards may send under a limit
//! limit_record  their file, as bytes
//! limit_file    the thread that writes this file
//! job           a job in memory, and where it stands
//! schedule      cursors over the stored schedule, and memory
//! write         a change of a job, for the commit thread
//! settle        from the end of an attempt to what is written
//! operation     operations of operators that are under way
//! event         what the home is told, and what it wants to be done
//! credit        places that owners have granted
//! home          the jobs of the partitions of this shard
//! capacity      connections of the shard, and who opens the next one
//! destination   one destination: queue, sources, windows, health, rates
//! flow_hash     hashes of destinations and tenants
//! grant         places of homes at an owner
//! health        whether a destination, a source or a connection class can be used
//! owner         the destinations of this shard
//! pace          how fast a destination takes mail
//! stripe        a destination with several owners
//! byte_gate     a limit in bytes for what the tasks of a shard hold
//! dial          a connection to one host: its addresses, also through a proxy
//! failure       why a connection could not be made, or broke
//! link          an open connection to a host, and how it is made
//! connection    one connection: take a job, send, tell the owner and the home
//! nudge         wakes an idle connection
//! reading       reads of the home, on the reader's thread
//! writing       writes of the home, with their reports
//! run           home and owner of a shard at work
//! report        reports to senders, as messages of their own
//! report_pace   when reports leave
//! reroute       the next hop that an operator sets for a job
//! resolve       from recipients to the servers that take their mail
//! sts           which MTA-STS policy holds for a domain
//! trust         the TLS that a host needs, and what it proved
//! verdict       what the answer to an attempt means, for the log and for reports
//! view          where jobs stand and what destinations do, for operators
//! survey        the largest destinations of a shard, for monitoring
//! ```

pub mod byte_gate;
pub mod capacity;
pub mod connection;
pub mod credit;
pub mod destination;
pub mod dial;
pub mod event;
pub mod failure;
pub mod fair;
pub mod flow_hash;
pub mod grant;
pub mod health;
pub mod home;
pub mod job;
pub mod limit_file;
pub mod limit_record;
pub mod limits;
pub mod link;
pub mod nudge;
pub mod operation;
pub mod owner;
pub mod pace;
pub mod reading;
pub mod report;
mod report_pace;
pub mod reroute;
pub mod resolve;
pub mod run;
pub mod schedule;
pub mod settle;
pub mod stripe;
pub mod sts;
pub mod survey;
pub mod tokens;
pub mod trust;
pub mod verdict;
pub mod view;
pub mod write;
pub mod writing;
