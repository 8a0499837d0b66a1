// One launch over many pieces of flat buffers: the list travels in the kernel's parameters, and a block of
// threads finds its piece and its block of LS_BLOCK elements there.
#ifndef LOCKSTEP_DEVICE_CUDA_PIECES_CUH
#define LOCKSTEP_DEVICE_CUDA_PIECES_CUH

#include "common.cuh"

// Piece: a struct with the number of its elements, n.
template <typename Piece, int MOST> struct Pieces {
    static constexpr int CAPACITY = MOST;
    Piece piece[MOST];
    unsigned first[MOST + 1]; // block of each piece, and behind the last the number of all
    int count;

    unsigned blocks() const
    {
        return first[count];
    }

    // The piece of a block, which becomes that block's number within it.
    __device__ __forceinline__ const Piece &find(unsigned block, size_t *within) const
    {
        int low = 0, high = count;
        while (high - low > 1) {
            int middle = (low + high) / 2;
            if (first[middle] <= block)
                low = middle;
            else
                high = middle;
        }
        *within = block - first[low];
        return piece[low];
    }
};

constexpr size_t PARAMETER_BYTES = 4096; // of a kernel, on every GPU

// Calls launch_chunk with as many pieces at a time as it holds. piece_at: the piece of an index below count.
template <typename List, typename PieceAt, typename LaunchChunk>
cudaError_t each_chunk(size_t count, PieceAt piece_at, LaunchChunk launch_chunk)
{
    static_assert(sizeof(List) <= PARAMETER_BYTES - 64, "room for other parameters");
    List list = {};
    for (size_t i = 0; i < count; i++) {
        auto piece = piece_at(i);
        if (piece.n > 0) {
            list.piece[list.count] = piece;
            list.first[list.count + 1] = list.first[list.count] + (unsigned)divide_up(piece.n, LS_BLOCK);
            list.count++;
        }
        if (list.count < List::CAPACITY && (i + 1 < count || list.count == 0))
            continue;
        cudaError_t error = launch_chunk((const List &)list);
        if (error != cudaSuccess)
            return error;
        list.count = 0;
    }
    return cudaSuccess;
}

#endif
