/// One table: name, id in the file, elements a block, bytes a block (scales first, then packed elements).
macro_rules! kinds {
    ($($name:ident $id:literal $len:literal $bytes:expr;)*) => {
        /// How the numbers of a tensor are stored: ggml's types, by its ids. The ids that are absent were withdrawn by ggml.
        ///
        /// A kind being listed says that its bytes can be counted, not that the engine computes with it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types, missing_docs, reason = "the names are ggml's, and say all there is to say")]
        pub enum Kind { $($name = $id,)* }

        impl Kind {
            /// All of them, by id.
            pub const ALL: &[Kind] = &[$(Kind::$name,)*];

            /// The kind with this id in the file.
            pub const fn from_id(id: u32) -> Option<Kind> {
                match id { $($id => Some(Kind::$name),)* _ => None }
            }

            /// How many elements make up a block; a row is a whole number of blocks.
            pub const fn block_len(self) -> u64 {
                match self { $(Kind::$name => $len,)* }
            }

            /// How many bytes a block takes.
            pub const fn block_bytes(self) -> u64 {
                match self { $(Kind::$name => $bytes,)* }
            }

            /// Its name as people write it, such as `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$name => stringify!($name),)* }
            }
        }
    };
}

kinds! {
    F32      0   1  4;
    F16      1   1  2;
    Q4_0     2  32  2 + 16;
    Q4_1     3  32  2 + 2 + 16;
    Q5_0     6  32  2 + 4 + 16;
    Q5_1     7  32  2 + 2 + 4 + 16;
    Q8_0     8  32  2 + 32;
    Q8_1     9  32  2 + 2 + 32;
    Q2_K    10 256  2 + 2 + 16 + 64;
    Q3_K    11 256  2 + 12 + 32 + 64;
    Q4_K    12 256  2 + 2 + 12 + 128;
    Q5_K    13 256  2 + 2 + 12 + 32 + 128;
    Q6_K    14 256  2 + 16 + 64 + 128;
    Q8_K    15 256  4 + 32 + 256;
    IQ2_XXS 16 256  2 + 64;
    IQ2_XS  17 256  2 + 8 + 64;
    IQ3_XXS 18 256  2 + 32 + 64;
    IQ1_S   19 256  2 + 16 + 32;
    IQ4_NL  20  32  2 + 16;
    IQ3_S   21 256  2 + 4 + 8 + 32 + 64;
    IQ2_S   22 256  2 + 16 + 64;
    IQ4_XS  23 256  2 + 2 + 4 + 128;
    I8      24   1  1;
    I16     25   1  2;
    I32     26   1  4;
    I64     27   1  8;
    F64     28   1  8;
    IQ1_M   29 256  8 + 16 + 32;
    BF16    30   1  2;
    TQ1_0   34 256  2 + 4 + 48;
    TQ2_0   35 256  2 + 64;
    MXFP4   39  32  1 + 16;
    NVFP4   40  64  4 + 32;
    Q1_0    41 128  2 + 16;
    Q2_0    42  64  2 + 16;
}

impl Kind {
    /// Its id in the file.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// The bytes that `elements` in a row take, or `None` where they are no whole number of blocks or too many.
    pub fn row_bytes(self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
