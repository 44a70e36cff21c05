//! What a notebook shows: tables, exercise checks.
