//! A received message: validated once, read in place.
//!
//! The one place of this crate with `unsafe` code.

use std::{any::TypeId, fmt, marker::PhantomData, ops::Deref};

use lyceum_wire::{AlignedBytes, access_checked};
use rkyv::{Archived, rancor};

use crate::{Message, System, reference};

/// A message or reply over the bytes it came in. Derefs to the archived form, which is never deserialized unless
/// [`read`](Incoming::read) asks for it; cheap to keep and to send on.
pub struct Incoming<M> {
    /// Invariant: `access_checked::<Archived<M>>` accepts these bytes, or `encode` made them from an `M` in this
    /// process. Every `origin` in this crate is set beside the call of `encode` and from the same type.
    bytes: AlignedBytes,
    system: System,
    message: PhantomData<fn() -> M>,
}

impl<M: Message> Incoming<M> {
    /// Bytes that came from another process: validated here.
    pub(crate) fn checked(bytes: AlignedBytes, system: &System) -> Result<Self, String> {
        access_checked::<Archived<M>>(&bytes).map_err(|error| error.to_string())?;
        Ok(Incoming { bytes, system: system.clone(), message: PhantomData })
    }

    /// Bytes whose `origin` is the type that this process archived into them, if it did: validated here unless
    /// that was `M`.
    pub(crate) fn new(bytes: AlignedBytes, origin: Option<TypeId>, system: &System) -> Result<Self, String> {
        if origin == Some(TypeId::of::<M>()) {
            Ok(Incoming { bytes, system: system.clone(), message: PhantomData })
        } else {
            Self::checked(bytes, system)
        }
    }

    /// The message as an owned value. References to actors in it are usable in this process.
    pub fn read(&self) -> Result<M, rancor::Error> {
        reference::with_system(&self.system, || rkyv::deserialize::<M, rancor::Error>(&**self))
    }

    /// The archived bytes.
    pub fn bytes(&self) -> &AlignedBytes {
        &self.bytes
    }
}

impl<M: Message> Deref for Incoming<M> {
    type Target = Archived<M>;

    fn deref(&self) -> &Archived<M> {
        // SAFETY: by the invariant of `bytes` they are a valid archive of an `M` at the place that
        // `access_checked` looks at (the end), aligned, and immutable for as long as `self` lives.
        unsafe { rkyv::access_unchecked::<Archived<M>>(&self.bytes) }
    }
}

impl<M> Clone for Incoming<M> {
    fn clone(&self) -> Self {
        Incoming { bytes: self.bytes.clone(), system: self.system.clone(), message: PhantomData }
    }
}

impl<M: Message<Archived: fmt::Debug>> fmt::Debug for Incoming<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<M: Message<Archived: fmt::Display>> fmt::Display for Incoming<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<M: Message<Archived: PartialEq<T>>, T: ?Sized> PartialEq<&T> for Incoming<M> {
    fn eq(&self, other: &&T) -> bool {
        **self == **other
    }
}
