//! Readers and writers over slices. Neither panics: running out of bytes is the value [`Short`].

/// The bytes ended before the field did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Short;

/// Reads fields from the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

macro_rules! read {
    ($($name:ident $convert:ident $type:ty),* $(,)?) => {$(
        pub fn $name(&mut self) -> Result<$type, Short> {
            self.array().map(<$type>::$convert)
        }
    )*};
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Short> {
        if len > self.rest.len() {
            return Err(Short);
        }
        let (head, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Short)?;
        self.rest = rest;
        Ok(*head)
    }

    pub fn skip(&mut self, len: usize) -> Result<(), Short> {
        self.bytes(len).map(|_| ())
    }

    pub fn u8(&mut self) -> Result<u8, Short> {
        self.array::<1>().map(|[byte]| byte)
    }

    read! {
        u16_be from_be_bytes u16, u32_be from_be_bytes u32, u64_be from_be_bytes u64,
        u16_le from_le_bytes u16, u32_le from_le_bytes u32, u64_le from_le_bytes u64,
    }
}

/// Writes fields to the front of a slice.
#[derive(Debug)]
pub struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

macro_rules! write {
    ($($name:ident $convert:ident $type:ty),* $(,)?) => {$(
        pub fn $name(&mut self, value: $type) -> Result<(), Short> {
            self.bytes(&value.$convert())
        }
    )*};
}

impl<'a> Writer<'a> {
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes written so far.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Short> {
        let end = self.at.checked_add(bytes.len()).ok_or(Short)?;
        self.bytes.get_mut(self.at..end).ok_or(Short)?.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }

    pub fn zeros(&mut self, len: usize) -> Result<(), Short> {
        let end = self.at.checked_add(len).ok_or(Short)?;
        self.bytes.get_mut(self.at..end).ok_or(Short)?.fill(0);
        self.at = end;
        Ok(())
    }

    pub fn u8(&mut self, value: u8) -> Result<(), Short> {
        self.bytes(&[value])
    }

    write! {
        u16_be to_be_bytes u16, u32_be to_be_bytes u32, u64_be to_be_bytes u64,
        u16_le to_le_bytes u16, u32_le to_le_bytes u32, u64_le to_le_bytes u64,
    }
}
