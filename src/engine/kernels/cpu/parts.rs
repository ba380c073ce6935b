use std::marker::PhantomData;

/// A slice whose parts several threads write at once.
pub struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    whole: PhantomData<&'a mut [T]>,
}

// SAFETY: it is an exclusive borrow of the slice, given out in parts that its users keep apart (the contract of `range`
// and `write`); the elements may go to other threads.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Of all of `x`.
    pub fn new(x: &'a mut [T]) -> Self {
        Parts { start: x.as_mut_ptr(), len: x.len(), whole: PhantomData }
    }

    /// A part.
    ///
    /// # Panics
    /// Where it isn't within the slice.
    ///
    /// # Safety
    /// Nobody else uses any of these elements while the result lives.
    #[allow(clippy::mut_from_ref, reason = "that is the point; see the contract")]
    pub unsafe fn range(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: the range lies within the slice that is borrowed for 'a, and the caller has it for itself.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }

    /// Writes one element.
    ///
    /// # Panics
    /// Where it isn't within the slice.
    ///
    /// # Safety
    /// Nobody else uses this element at the same time.
    pub unsafe fn write(&self, at: usize, value: T)
    where
        T: Copy,
    {
        assert!(at < self.len);
        // SAFETY: as above.
        unsafe { self.start.add(at).write(value) };
    }
}
