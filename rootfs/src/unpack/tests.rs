//! Unpacking of well-formed and hostile tars, checked on the real file system.
