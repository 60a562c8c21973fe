//! Enums whose variants have a fixed text: labels, keywords of protocols.

/// Declares the enum with `ALL`, `label` and `from_label`, which ignores the case of ASCII letters.
#[macro_export]
macro_rules! labelled {
    ($(#[$about:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            pub const ALL: [$name; [$($label),+].len()] = [$($name::$variant),+];

            pub const fn label(self) -> &'static str {
                match self {
                    $($name::$variant => $label,)+
                }
            }

            pub fn from_label(label: &[u8]) -> Option<$name> {
                let is_same = |one: &$name| one.label().as_bytes().eq_ignore_ascii_case(label);
                $name::ALL.into_iter().find(is_same)
            }
        }
    };
}
