//! How losses are built: setters that never fail, and one check at the end.

/// Declares the builder of a loss with private fields and a `Default`: a type with the setters given, and
/// `build`, which runs the check given. The first doc comment is that of the loss's `builder()`.
macro_rules! builder {
    (
        $(#[$doc:meta])*
        $builder:ident of $loss:ident;
        $($(#[$option_doc:meta])* fn $option:ident($this:ident $(, $value:ident: $type:ty)?) $set:block)*
        build($built:ident), errors $errors:literal $check:block
    ) => {
        impl $loss {
            $(#[$doc])*
            pub fn builder() -> $builder {
                $builder { loss: Self::default() }
            }
        }

        $crate::losses::options::setters! {
            $builder of $loss;
            $($(#[$option_doc])* fn $option($this $(, $value: $type)?) $set)*
            build($built), errors $errors $check
        }
    };
}
pub(crate) use builder;

/// [`builder!`] without `X::builder()`, for a loss that has required arguments.
macro_rules! setters {
    (
        $builder:ident of $loss:ident;
        $($(#[$option_doc:meta])* fn $option:ident($this:ident $(, $value:ident: $type:ty)?) $set:block)*
        build($built:ident), errors $errors:literal $check:block
    ) => {
        #[doc = concat!("The options of [`", stringify!($loss), "`].")]
        #[derive(Debug, Clone)]
        #[must_use = "only what `build` gives is a loss"]
        pub struct $builder {
            loss: $loss,
        }

        impl $builder {
            $(
                $(#[$option_doc])*
                pub fn $option(mut self $(, $value: $type)?) -> Self {
                    let $this = &mut self.loss;
                    $set;
                    self
                }
            )*

            /// The loss, its options checked.
            ///
            /// # Errors
            #[doc = $errors]
            pub fn build(self) -> $crate::error::Result<$loss> {
                let $built = &self.loss;
                $check;
                Ok(self.loss)
            }
        }
    };
}
pub(crate) use setters;
