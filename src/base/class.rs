//! The urgency of a message among the mail of its tenant.

/// A class of mail. Classes share a destination by weight within one tenant, so that marking all
/// mail urgent gains nothing against other tenants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    Urgent = 0,
    #[default]
    Normal = 1,
    Bulk = 2,
}

impl Class {
    pub const ALL: [Class; 3] = [Class::Urgent, Class::Normal, Class::Bulk];

    /// The share of a class among the classes of a tenant that have mail.
    pub const fn weight(self) -> u32 {
        match self {
            Class::Urgent => 20,
            Class::Normal => 5,
            Class::Bulk => 1,
        }
    }

    pub const fn label(self) -> &'static str {
        match self {
            Class::Urgent => "urgent",
            Class::Normal => "normal",
            Class::Bulk => "bulk",
        }
    }

    /// The class of a stored byte. `None` for a byte that no class has.
    pub fn from_u8(byte: u8) -> Option<Class> {
        Class::ALL.get(usize::from(byte)).copied()
    }
}
