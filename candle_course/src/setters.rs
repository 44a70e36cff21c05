//! How options of builders are declared.

/// Setters of a builder, as `name(argument: Type) => field = value;`: each replaces one option and never
/// fails; what cannot be is told by `build`.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) => $field:tt$(.$of:tt)* = $value:expr;)*) => {$(
        $(#[$doc])*
        #[must_use = "a setter gives the builder back"]
        pub fn $name(mut self, $($argument: $type),*) -> Self {
            self.$field$(.$of)* = $value;
            self
        }
    )*};
}
pub(crate) use setters;
